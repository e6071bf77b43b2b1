"""The documentation: every block of code runs, and the site builds."""
