"""A CRM and an ERP as different as real ones are, and applications that use them."""
