//go:build e2e && !firstpacket

package policy

// The first packets of some Pods in every run of the suite; `make test-first-packet` starts 201.
const (
	waves    = 1
	waveSize = 39
)
