"""What users see of a run: tables, plots and the report page."""
