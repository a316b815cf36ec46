"""What users see of the race from outside: counts, times, money, health."""
