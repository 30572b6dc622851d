package v1alpha1

import (
	_ "k8s.io/apimachinery"
)
