"""Where files stand: local folders, object stores (s3://, gs://), web servers (http://) and the Hugging Face Hub."""
