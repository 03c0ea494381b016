"""Speed: times against PyTorch measured in turn, and exact counts of what the compiler made of each program."""
