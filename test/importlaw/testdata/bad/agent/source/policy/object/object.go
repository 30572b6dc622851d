package object

import _ "k8s.io/client-go"
