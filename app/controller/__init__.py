"""The controller: custom resources of a cluster to the policy set in force, and what became of them back to each."""
