"""The instructor's side: what decides a grade. It runs outside the student's kernel."""
