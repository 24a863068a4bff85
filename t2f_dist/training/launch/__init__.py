"""The processes of a launch: how they meet, agree, and are watched."""
