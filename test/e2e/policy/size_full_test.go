//go:build e2e && firstpacket

package policy

const (
	waves    = 3
	waveSize = 67 // so many Pods more does each wave start; 3 nodes hold them
)
