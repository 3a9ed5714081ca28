"""What leaves the machine: exported weights, model cards, leaderboard entries."""
