"""A real ERP, Tryton, in agreement with the reference CRM, by a `concord.yaml` alone."""
