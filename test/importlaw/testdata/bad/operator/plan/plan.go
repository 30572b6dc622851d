package plan

import (
	_ "crypto/rand"
	_ "k8s.io/client-go"
)
