"""The load generator behind `tenantctl bench`. Its modules load numpy, so they are imported when it runs."""
