"""Set-ups to run and to learn from, each with its `concord.yaml`, schemas, workload and README."""
