//go:build netns

package policy_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/test/nstest"
)

// TestKernelListsGolden writes the tables to the kernel and compares what the nft program lists with
// the golden files.
func TestKernelListsGolden(t *testing.T) {
	l := &lab{t: t, ns: map[string]*nstest.Namespace{"node": nstest.New(t)}}
	var err error
	l.ns["node"].Do(t, func() { l.kernel, err = nft.NewTable(policy.TableName) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.kernel.Close() })
	for file, table := range goldens(t) {
		if _, err := l.kernel.Ensure(t.Context(), table); err != nil {
			t.Fatal(err)
		}
		golden, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := tokens(l.run("node", "nft list table inet "+policy.TableName)), tokens(string(golden)); got != want {
			t.Errorf("%s: nft lists otherwise:\n%s", file, lineDiff(got, want))
		}
	}
}

var packetCounts = regexp.MustCompile(`packets \d+ bytes \d+`)

// tokens brings a listing into one form: blocks and elements sorted, the latter on one line, nothing counted.
func tokens(listing string) string {
	listing = packetCounts.ReplaceAllString(listing, "packets 0 bytes 0")
	inside := strings.TrimSuffix(strings.TrimSpace(listing), "}")
	head, inside, _ := strings.Cut(inside, "\n")
	var blocks []string
	for block := range strings.SplitSeq(strings.TrimRight(inside, "\n"), "\n\n") {
		before, list, ok := strings.Cut(block, "elements = {")
		if ok {
			list, after, _ := strings.Cut(list, "}")
			elements := strings.Split(list, ",")
			for i := range elements {
				elements[i] = strings.TrimSpace(elements[i])
			}
			slices.Sort(elements)
			block = before + "elements = { " + strings.Join(elements, ", ") + " }" + after
		}
		blocks = append(blocks, block)
	}
	slices.Sort(blocks)
	return head + "\n" + strings.Join(blocks, "\n\n")
}
