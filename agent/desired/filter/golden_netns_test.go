//go:build netns

package filter_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/agent/desired/filter"
)

// TestKernelListsGolden writes the table to the kernel and compares what the nft program lists
// with the golden file.
func TestKernelListsGolden(t *testing.T) {
	l := newLab(t)
	for file, in := range map[string]filter.Input{"testdata/empty.nft": {}, "testdata/example.nft": example()} {
		l.apply(in)
		golden, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := tokens(l.run("node", "nft list table inet weftnet")), tokens(string(golden)); got != want {
			t.Errorf("%s: nft lists\n%s\nwant\n%s", file, got, want)
		}
	}
}

var packetCounts = regexp.MustCompile(`packets \d+ bytes \d+`)

// tokens brings a listing into one form: blocks sorted, elements sorted and on one line, nothing
// counted.
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
