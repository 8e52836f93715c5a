"""The report: all tables, figures and what follows from them as one static HTML page."""
