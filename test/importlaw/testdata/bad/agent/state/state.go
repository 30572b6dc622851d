package state

import (
	_ "k8s.io/apimachinery"
)
