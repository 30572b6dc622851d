package cni

import (
	_ "k8s.io/client-go"
)
