package contract

import (
	"testing"

	"github.com/weftnet/weftnet/agent/kernel/wg"
)

func TestFake(t *testing.T) {
	Run(t, func(*testing.T) Backend { return Backend{wg.NewFake("weft0"), "weft0"} })
}
