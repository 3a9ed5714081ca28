"""Publishing: exported weights, model cards and leaderboard entries."""
