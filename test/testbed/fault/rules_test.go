package fault

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestRuleset(t *testing.T) {
	rules := Add(nil, Pair(1, 2, false, true, Cut))
	rules = Add(rules, []Rule{{From: Any, To: 3, Percent: 12.5}})
	want := `table bridge tb-faults
delete table bridge tb-faults
table bridge tb-faults {
	chain forward {
		type filter hook forward priority filter; policy accept;
		oifname "tb-p3" numgen random mod 10000 < 1250 counter drop
		iifname "tb-p1" oifname "tb-p2" meta l4proto udp counter drop
		iifname "tb-p2" oifname "tb-p1" meta l4proto udp counter drop
	}
	chain input {
		type filter hook input priority filter; policy accept;
	}
	chain output {
		type filter hook output priority filter; policy accept;
		oifname "tb-p3" numgen random mod 10000 < 1250 counter drop
	}
}
`
	if got := Ruleset(rules); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestNoRulesRemoveTheTable(t *testing.T) {
	if got := Ruleset(nil); got != "table bridge tb-faults\ndelete table bridge tb-faults\n" {
		t.Errorf("got:\n%s", got)
	}
}

func TestAddReplacesAndIsOrdered(t *testing.T) {
	a := Add(nil, Pair(2, 1, false, false, Cut))
	b := Add(Add(nil, Pair(1, 2, true, false, Cut)), Pair(2, 1, true, false, Cut))
	if !slices.Equal(a, b) {
		t.Errorf("order matters: %v and %v", a, b)
	}
	lossy := Add(a, Pair(1, 2, true, true, 5))
	if len(lossy) != 2 || lossy[0] != (Rule{From: 1, To: 2, UDP: true, Percent: 5}) {
		t.Errorf("a second fault between the same sides: %v", lossy)
	}
	if left := Remove(lossy, Between(1, 2)); len(left) != 0 {
		t.Errorf("healing leaves %v", left)
	}
	if left := Remove(lossy, Between(1, 3)); len(left) != 2 {
		t.Errorf("healing another pair leaves %v", left)
	}
}

func TestValidate(t *testing.T) {
	for _, bad := range []Rule{{From: 1, To: 1, Percent: 100}, {From: 1, To: 2}, {From: 1, To: 2, Percent: 101}, {Percent: 50}} {
		if bad.Validate() == nil {
			t.Errorf("%v accepted", bad)
		}
	}
	if err := (Rule{From: Any, To: 2, Percent: 0.01}).Validate(); err != nil {
		t.Error(err)
	}
}

// The syntax, as nft itself sees it; nothing is loaded.
func TestNftAcceptsTheRules(t *testing.T) {
	path, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("no nft on this machine")
	}
	rules := Add(Pair(1, 2, false, true, Cut), []Rule{{From: 3, To: Any, Percent: 0.5}})
	cmd := exec.Command(path, "--check", "-f", "-")
	cmd.Stdin = strings.NewReader(Ruleset(rules))
	out, err := cmd.CombinedOutput()
	if err != nil && strings.Contains(string(out), "Operation not permitted") {
		t.Skip("nft --check needs root")
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
