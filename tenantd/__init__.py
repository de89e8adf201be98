"""tenantd: one GGUF model, many tenants, one daemon."""

__version__ = "0.2.0"
