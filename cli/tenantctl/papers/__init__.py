"""How invoices look: on a terminal, as CSV, as a page to print, as PDF, as Markdown."""
