package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/pki"
)

func args(t *testing.T, name string, family layout.Family) []string {
	t.Helper()
	a, err := pki.Open(t.TempDir(), time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	return Args(name, Config{Family: family, PKI: a, Data: "/data", Kubeconfig: func(n string) string { return n + ".conf" }})
}

func TestFamilies(t *testing.T) {
	for family, want := range map[layout.Family][]string{
		layout.Dual: {"--bind-address=::", "--advertise-address=10.200.0.11", "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112"},
		layout.IPv4: {"--bind-address=0.0.0.0", "--advertise-address=10.200.0.11", "--service-cluster-ip-range=10.96.0.0/16"},
		layout.IPv6: {"--bind-address=::", "--advertise-address=fd00:c8::11", "--service-cluster-ip-range=fd00:10:96::/112"},
	} {
		got := args(t, APIServer, family)
		for _, arg := range want {
			if !slices.Contains(got, arg) {
				t.Errorf("%s: no %s in %v", family, arg, got)
			}
		}
	}
}

func TestEveryProgramHasArguments(t *testing.T) {
	for _, name := range Names() {
		got := args(t, name, layout.Dual)
		if len(got) == 0 {
			t.Errorf("%s has none", name)
		}
		for _, arg := range got {
			if !strings.HasPrefix(arg, "--") || strings.HasSuffix(arg, "=") {
				t.Errorf("%s: %q", name, arg)
			}
		}
	}
}

func TestServerCertificateNamesEveryAddress(t *testing.T) {
	var got []string
	for _, ip := range Subjects(layout.Dual)["apiserver"].IPs {
		got = append(got, ip.String())
	}
	for _, want := range []string{"10.200.0.11", "fd00:c8::11", "10.96.0.1", "fd00:10:96::1", "127.0.0.1", "::1"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %s in %v", want, got)
		}
	}
}
