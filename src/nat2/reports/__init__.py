"""What a run tells people: tables, plots and the page."""
