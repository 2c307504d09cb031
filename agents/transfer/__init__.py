"""Does a policy trained in a learned world work in the true one?"""
