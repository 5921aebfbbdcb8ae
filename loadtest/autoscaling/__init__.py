"""What the autoscaler of an overlay does with a demand: KEDA, HPA, Prometheus and the pods, simulated."""
