"""What shows results.json: tables, figures, the page."""
