//go:build netns

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/test/nstest"
)

// TestLoopbackIsBroughtUp runs the program as a runtime does that wants a plugin of type loopback.
func TestLoopbackIsBroughtUp(t *testing.T) {
	program := filepath.Join(t.TempDir(), "loopback")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	ns := nstest.New(t)
	ns.Do(t, func() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetDown(lo)
		}
		if err != nil {
			t.Error(err)
		}
	})
	path := fmt.Sprintf("/proc/self/fd/%d", ns.Fd())
	call := func(command, version string) ([]byte, error) {
		cmd := exec.Command(program)
		cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":%q,"name":"cni-loopback","type":"loopback"}`, version))
		// The namespace's descriptor is this process's: the child finds it through its parent.
		cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=c", "CNI_IFNAME=lo", "CNI_NETNS=" + strings.Replace(path, "self", fmt.Sprint(os.Getpid()), 1)}
		return cmd.Output()
	}
	if out, err := call("CHECK", "1.0.0"); err == nil {
		t.Errorf("CHECK of a loopback that is down succeeded: %s", out)
	}
	for _, version := range []string{"0.3.1", "1.0.0"} {
		out, err := call("ADD", version)
		if err != nil {
			t.Fatalf("ADD: %v: %s", err, out)
		}
		checkResult(t, out, version)
	}
	ns.Do(t, func() {
		lo, err := net.InterfaceByName("lo")
		if err != nil || lo.Flags&net.FlagUp == 0 {
			t.Errorf("the loopback is not up after ADD: %+v, %v", lo, err)
		}
	})
	for _, command := range []string{"CHECK", "DEL", "STATUS", "GC"} {
		if out, err := call(command, "1.0.0"); err != nil {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
}

func checkResult(t *testing.T, out []byte, version string) {
	t.Helper()
	var result struct {
		CNIVersion string
		IPs        []struct{ Address, Version string }
	}
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatalf("ADD printed %q: %v", out, err)
	}
	if result.CNIVersion != version || len(result.IPs) != 2 || result.IPs[1].Address != "::1/128" {
		t.Errorf("ADD with version %s gave %s", version, out)
	}
	if old := version == "0.3.1"; old != (result.IPs[0].Version == "4") {
		t.Errorf("an address tells its family in versions before 1.0.0 and only there: %s", out)
	}
}
