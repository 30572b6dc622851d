//go:build netns

package service_test

import (
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// TestKernelListsTheTable writes the table with all examples in it to the kernel, finds nothing to
// change behind it, and compares what the nft program lists with what the model prints.
func TestKernelListsTheTable(t *testing.T) {
	for name, o := range examples() {
		t.Run(name, func(t *testing.T) {
			ns := nstest.New(t)
			want := tableWith(o.wanted())
			k := ensure(t, ns, want)
			defer func() { _ = k.Close() }()
			if again, err := k.Ensure(t.Context(), want); err != nil || !again.Empty() {
				t.Errorf("the second time: %v, %v", again, err)
			}
			var out []byte
			var err error
			ns.Do(t, func() {
				out, err = exec.Command("nft", "list", "table", "inet", state.ServiceTableName).CombinedOutput()
			})
			if err != nil {
				t.Fatalf("nft list: %v\n%s", err, out)
			}
			if got, model := words(string(out)), words(want.String()); got != model {
				t.Errorf("nft lists (-) and the model prints (+):\n%s", difference(got, model))
			}
		})
	}
}

func ensure(t *testing.T, ns *nstest.Namespace, want state.Table) *nft.Kernel {
	t.Helper()
	var k *nft.Kernel
	var err error
	ns.Do(t, func() {
		if k, err = nft.NewTable(state.ServiceTableName); err == nil {
			_, err = k.Ensure(t.Context(), want)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// words brings a listing into one form: blocks sorted, elements sorted and one to a line.
func words(listing string) string {
	inside := strings.TrimSuffix(strings.TrimSpace(listing), "}")
	head, inside, _ := strings.Cut(inside, "\n")
	var blocks []string
	for block := range strings.SplitSeq(strings.TrimRight(inside, "\n"), "\n\n") {
		before, list, ok := strings.Cut(block, "elements = {")
		if ok {
			list, _, _ = strings.Cut(list, "}")
			elements := strings.Split(list, ",")
			for i := range elements {
				elements[i] = strings.TrimSpace(elements[i])
			}
			slices.Sort(elements)
			block = before + "elements = {\n" + strings.Join(elements, "\n") + " }"
		}
		blocks = append(blocks, strings.TrimSpace(block))
	}
	slices.Sort(blocks)
	return head + "\n" + strings.Join(blocks, "\n\n")
}

// difference are the lines that only one of them has.
func difference(a, b string) string {
	var out []string
	one, other := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, l := range one {
		if !slices.Contains(other, l) {
			out = append(out, "-"+l)
		}
	}
	for _, l := range other {
		if !slices.Contains(one, l) {
			out = append(out, "+"+l)
		}
	}
	return strings.Join(out, "\n")
}

// TestSequencesOfStatesInTheKernel goes through the states on the real kernel, which takes every step.
func TestSequencesOfStatesInTheKernel(t *testing.T) {
	all := states()
	order := slices.Sorted(maps.Keys(all))
	ns := nstest.New(t)
	var k *nft.Kernel
	var err error
	ns.Do(t, func() { k, err = nft.NewTable(state.ServiceTableName) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	back := slices.Clone(order)
	slices.Reverse(back)
	walkThrough(t, k, all, append(order, back...), false)
}
