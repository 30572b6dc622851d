package service_test

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

func target(t state.Target) string {
	switch t.Verdict {
	case state.TargetRefuse:
		return "refuse"
	case state.TargetDrop:
		return "drop"
	case state.TargetForward:
	}
	return fmt.Sprint(t.Endpoints)
}

var _ = netip.Addr{}
var _ = strings.Join
