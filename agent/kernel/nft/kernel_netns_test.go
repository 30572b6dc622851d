//go:build netns

package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// inNamespace opens the Kernel in a network namespace of its own, and gives a way to run the nft
// program there.
func inNamespace(t *testing.T) (*Kernel, func(args ...string) string) {
	t.Helper()
	return open(t, nstest.New(t))
}

func open(t *testing.T, ns *nstest.Namespace) (*Kernel, func(args ...string) string) {
	t.Helper()
	var k *Kernel
	var err error
	ns.Do(t, func() { k, err = New() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return k, func(args ...string) string {
		var out []byte
		var err error
		ns.Do(t, func() { out, err = exec.Command("nft", args...).CombinedOutput() })
		if err != nil {
			t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
}

func TestKernelContract(t *testing.T) {
	contract(t, func(t *testing.T) Table {
		k, _ := inNamespace(t)
		return k
	})
}

// TestListsAsPrinted compares what the nft program lists with what the model prints.
func TestListsAsPrinted(t *testing.T) {
	for name, table := range sampleTables() {
		t.Run(name, func(t *testing.T) {
			k, nft := inNamespace(t)
			if _, err := k.Ensure(t.Context(), table); err != nil {
				t.Fatal(err)
			}
			got, want := normalise(nft("list", "table", "inet", state.TableName)), normalise(table.String())
			if got != want {
				t.Errorf("nft lists\n%s\nthe model prints\n%s\nfirst difference: %s", got, want, firstDifference(got, want))
			}
		})
	}
}

func firstDifference(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(la), len(lb)) {
		if la[i] != lb[i] {
			return fmt.Sprintf("line %d:\n  nft   %q\n  model %q", i+1, la[i], lb[i])
		}
	}
	return fmt.Sprintf("length: %d lines and %d lines", len(la), len(lb))
}

// TestDriftIsRepaired lets another program damage the table in every way that we know of.
func TestDriftIsRepaired(t *testing.T) {
	for name, script := range map[string]string{
		"rule deleted":        "flush chain inet weftnet entry",
		"rule added":          "add rule inet weftnet entry accept",
		"rule inserted":       "insert rule inet weftnet entry drop",
		"chain emptied":       "flush chain inet weftnet helper",
		"chain added":         "add chain inet weftnet stranger { type filter hook input priority 0; policy drop; }",
		"policy changed":      "chain inet weftnet entry { policy drop; }",
		"element added":       "add element inet weftnet ranges4 { 192.0.2.0/24 }",
		"element deleted":     "delete element inet weftnet ranges4 { 10.0.0.0/8 }",
		"map element deleted": "delete element inet weftnet ports { tcp . 80 }",
		"set emptied":         "flush set inet weftnet ranges6",
		"set added":           "add set inet weftnet stranger { type ipv4_addr; }",
		"map added":           "add map inet weftnet stranger { type ipv4_addr : verdict; elements = { 1.2.3.4 : jump helper }; }",
		"counter added":       "add counter inet weftnet stranger",
		"put to sleep":        "add table inet weftnet { flags dormant; }",
		"all rules deleted":   "flush table inet weftnet",
		"table deleted":       "delete table inet weftnet",
		"everything deleted":  "flush ruleset",
	} {
		t.Run(name, func(t *testing.T) {
			k, nft := inNamespace(t)
			want := sampleTables()["all statements"]
			if _, err := k.Ensure(t.Context(), want); err != nil {
				t.Fatal(err)
			}
			before := normalise(nft("list", "ruleset"))
			nft(strings.Fields(script)...)
			if normalise(nft("list", "ruleset")) == before {
				t.Fatalf("%q changed nothing", script)
			}
			change, err := k.Ensure(t.Context(), want)
			if err != nil {
				t.Fatalf("repair: %v", err)
			}
			if change.Empty() {
				t.Error("the damage was not seen")
			}
			if got := normalise(nft("list", "ruleset")); got != before {
				t.Errorf("after the repair (%s)\n%s\nwant\n%s", change, got, before)
			}
		})
	}
}

// TestChangedRuleIsRepaired replaces single rules in place by others.
func TestChangedRuleIsRepaired(t *testing.T) {
	k, nft := inNamespace(t)
	want := sampleTables()["all statements"]
	if _, err := k.Ensure(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	before := normalise(nft("list", "ruleset"))
	listing := nft("-a", "list", "chain", "inet", "weftnet", "entry")
	handles := 0
	for line := range strings.Lines(listing) {
		_, handle, ok := strings.Cut(line, "# handle ")
		if !ok || strings.Contains(line, "chain entry") {
			continue
		}
		handles++
		nft("replace", "rule", "inet", "weftnet", "entry", "handle", strings.TrimSpace(handle), "ip", "saddr", "192.0.2.1", "accept")
		change, err := k.Ensure(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		if change.Empty() {
			t.Errorf("the change of %q was not seen", strings.TrimSpace(line))
		}
		if got := normalise(nft("list", "ruleset")); got != before {
			t.Fatalf("after the repair\n%s\nwant\n%s", got, before)
		}
		break // handles are new after the repair
	}
	if handles == 0 {
		t.Fatalf("no rule found in\n%s", listing)
	}
}

// TestForeignTablesAreLeftAlone has a neighbour with tables of the same family and another.
func TestForeignTablesAreLeftAlone(t *testing.T) {
	k, nft := inNamespace(t)
	nft("add table inet other; add chain inet other c { type filter hook input priority 0; }; add rule inet other c tcp dport 1 drop; add set inet other s { typeof ip saddr . tcp dport; }; add table ip weftnet; add chain ip weftnet c")
	foreign := func() string { return nft("list", "table", "inet", "other") + nft("list", "table", "ip", "weftnet") }
	before := foreign()
	for _, table := range sampleTables() {
		if _, err := k.Ensure(t.Context(), table); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.Cleanup(t.Context()); err != nil {
		t.Errorf("second cleanup: %v", err)
	}
	if got := foreign(); got != before {
		t.Errorf("foreign tables are\n%s\nwant\n%s", got, before)
	}
	if tables := nft("list", "tables"); strings.Contains(tables, "inet weftnet") {
		t.Errorf("after cleanup there is still\n%s", tables)
	}
}

// TestSubscribeTellsOfStrangers waits for news of strangers' changes and of no others.
func TestSubscribeTellsOfStrangers(t *testing.T) {
	k, nft := inNamespace(t)
	events, err := k.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tables := sampleTables()
	want := tables["all statements"]
	quiet := func(what string) {
		t.Helper()
		// A stranger's event that is certain to come bounds the wait: whatever stood before it
		// in the socket has been judged.
		before := k.strangers.Load()
		nft("add", "counter", "inet", "weftnet", "probe")
		waitEvent(t, events)
		if got := k.strangers.Load() - before; got != 1 {
			t.Errorf("%s: %d strangers' changes seen, want only the probe", what, got)
		}
	}
	if _, err := k.Ensure(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if k.conn.Patient() {
		t.Error("an own transaction counts as one that may have to be waited for")
	}
	quiet("own transaction")
	if !k.conn.Patient() {
		t.Error("with another program's transactions requests are still sent as if none had to be waited for")
	}
	if _, err := k.Ensure(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	nft("add table inet other; add chain inet other c; add table ip weftnet; add counter ip weftnet x")
	quiet("foreign tables")
	for _, script := range []string{
		"add rule inet weftnet entry accept", "flush chain inet weftnet entry", "delete element inet weftnet ports { tcp . 80 }",
		"delete table inet weftnet",
	} {
		if _, err := k.Ensure(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		nft(script)
		waitEvent(t, events)
	}
}

func waitEvent(t *testing.T, events <-chan struct{}) {
	t.Helper()
	select {
	case <-events:
	case <-time.After(10 * time.Second):
		t.Fatal("no event within 10 s")
	}
}

// TestUpdateDoesNotList proves that an update after a write needs no listing, and that one after a
// stranger's change does list and repair.
func TestUpdateDoesNotList(t *testing.T) {
	k, nft := inNamespace(t)
	events, err := k.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := sampleTables()["all statements"]
	if _, err := k.Update(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	want.Sets = append([]state.Set(nil), want.Sets...)
	for i, s := range want.Sets {
		if s.Name == "ranges4" {
			want.Sets[i].Elements = append([]state.Element{state.PrefixElement(netip.MustParsePrefix("192.0.2.0/25"))}, s.Elements...)
		}
	}
	messages := sent(t, k)
	change, err := k.Update(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if got := change.String(); got != "add element inet weftnet ranges4 { 192.0.2.0/25 }" {
		t.Errorf("change is %q", got)
	}
	const oneTransaction = 3                                   // begin, one message, end
	if got := sent(t, k) - messages; got != oneTransaction+1 { // and the question itself
		t.Errorf("%d messages were sent, want %d", got-1, oneTransaction)
	}
	nft("flush", "set", "inet", "weftnet", "ranges4")
	waitEvent(t, events)
	if _, err := k.Update(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if got, wantText := normalise(nft("list", "table", "inet", "weftnet")), normalise(want.String()); got != wantText {
		t.Errorf("after the repair\n%s\nwant\n%s", got, wantText)
	}
}

// TestRefusalNamesTheStep reads the error of a refused transaction.
func TestRefusalNamesTheStep(t *testing.T) {
	k, _ := inNamespace(t)
	err := k.Apply(t.Context(), Change{
		Family: "inet", Name: state.TableName, Create: true,
		Chains: []state.Chain{{Name: "a"}, {Name: "b"}},
		Rules: []state.Chain{
			{Name: "a", Rules: []state.ChainRule{{Statements: []state.Statement{state.Accept}}}},
			{Name: "b", Rules: []state.ChainRule{{Statements: []state.Statement{state.Jump("nowhere")}}}},
		},
	})
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "add rule to chain b: jump nowhere") {
		t.Errorf("error is %q", err)
	}
	if strings.Contains(fmt.Sprint(err), "chain a") {
		t.Errorf("error blames a step that was fine: %q", err)
	}
}

// TestCountersGoOn changes one chain and looks at the counters of another.
func TestCountersGoOn(t *testing.T) {
	ns := nstest.New(t)
	k, nft := open(t, ns)
	chain := func(name string, rules ...state.Statement) state.Chain {
		return state.Chain{
			Name: name, Type: state.ChainFilter, Hook: state.HookOutput,
			Rules: []state.ChainRule{{Statements: append([]state.Statement{state.Count{}, state.Count{Name: "all"}}, rules...)}},
		}
	}
	table := state.Table{Family: "inet", Name: state.TableName, Counters: []string{"all"}, Chains: []state.Chain{chain("one"), chain("two")}}
	if _, err := k.Ensure(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	ns.Do(t, func() {
		c, err := net.Dial("udp", "127.0.0.1:9")
		if err == nil {
			_, err = c.Write([]byte("to be counted"))
		}
		if err != nil {
			t.Errorf("send a packet: %v", err)
		}
	})
	before, err := k.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before["all"].Packets == 0 || before["all"].Bytes == 0 {
		t.Fatalf("nothing was counted: %v", before)
	}
	anonymous := nft("list", "chain", "inet", "weftnet", "one")
	table.Chains[1] = chain("two", state.Accept)
	if _, err := k.Ensure(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	after, err := k.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after["all"] != before["all"] {
		t.Errorf("named counter went from %v to %v", before["all"], after["all"])
	}
	if got := nft("list", "chain", "inet", "weftnet", "one"); got != anonymous {
		t.Errorf("the untouched chain went from\n%s\nto\n%s", anonymous, got)
	}
}

// sent is how many messages the Kernel has sent, the one that finds out included.
func sent(t *testing.T, k *Kernel) uint32 {
	t.Helper()
	var seq uint32
	err := k.conn.Exchange(1, func(first uint32) []byte {
		seq = first
		return wire.Frame(nil, nftType(unix.NFT_MSG_GETGEN), unix.NLM_F_ACK, first, netfilter(unix.AF_UNSPEC, 0, nil))
	}, func(m syscall.NetlinkMessage) bool { return m.Header.Type == unix.NLMSG_ERROR })
	if err != nil {
		t.Fatal(err)
	}
	return seq
}
