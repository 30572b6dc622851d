package contract

import (
	"testing"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/state"
)

func fake(kind state.LinkKind) func(*testing.T) Backend {
	return func(*testing.T) Backend {
		f := link.NewFake()
		return Backend{
			Interface: f, Kind: kind,
			Put:    func(_ *testing.T, l state.Link) { f.Put(l) },
			Remove: func(_ *testing.T, name string) { f.Remove(name) },
		}
	}
}

func TestFakeWithTUN(t *testing.T)             { Run(t, fake(state.LinkTUN)) }
func TestFakeWithKernelWireGuard(t *testing.T) { Run(t, fake(state.LinkWireGuard)) }
