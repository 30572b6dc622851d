//go:build netns

package nstest

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// TestDialOnceTellsOfASecondTry lets every other first packet be lost.
func TestDialOnceTellsOfASecondTry(t *testing.T) {
	n := New(t)
	var l net.Listener
	var err error
	n.Do(t, func() { l, err = net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c, err := n.DialOnce(t, l.Addr().String())
	if err != nil {
		t.Fatalf("to a server that answers: %v", err)
	}
	_ = c.Close()
	rules := fmt.Sprintf("table ip t {\nchain c {\ntype filter hook input priority 0;\ntcp dport %d tcp flags & (syn | ack) == syn numgen inc mod 2 == 0 drop\n}\n}\n", l.Addr().(*net.TCPAddr).Port)
	load := exec.Command("nft", "-f", "-")
	load.Stdin = strings.NewReader(rules)
	var out []byte
	n.Do(t, func() { out, err = load.CombinedOutput() })
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := n.DialOnce(t, l.Addr().String()); err == nil || !strings.Contains(err.Error(), "sent 1 times more") {
		t.Errorf("when the first packet was lost: %v", err)
	}
}
