"""Who may use the model: tenants, their keys, and the picture of both that the request path asks."""
