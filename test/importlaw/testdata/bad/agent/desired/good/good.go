// Package good keeps the law: durations, times and addresses are values.
package good

import (
	"fmt"
	"net/netip"
	"time"
)

// Due says whether the interval is over.
func Due(last, now time.Time, every time.Duration) bool { return now.Sub(last) >= every }

// Name names an address.
func Name(a netip.Addr) string { return fmt.Sprintf("addr-%s", a) }
