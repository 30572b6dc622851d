package importlaw

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRepository holds the repository against the law.
func TestRepository(t *testing.T) {
	g := load(t, filepath.Join("..", ".."))
	if len(g.sorted("agent")) == 0 {
		t.Fatal("go list gave no package under agent/: the law would hold for nothing")
	}
	for _, breach := range findings(t, g) {
		t.Error(breach)
	}
}

// TestBadHouse proves that the law can fail: every law is broken in testdata/bad, and each
// breach is reported with its chain and its reason, as written in breaches.txt.
func TestBadHouse(t *testing.T) {
	g := load(t, filepath.Join("testdata", "bad"))
	want, err := os.ReadFile(filepath.Join("testdata", "breaches.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(findings(t, g), "\n") + "\n"; got != string(want) {
		t.Errorf("breaches in testdata/bad:\n%s\nwant:\n%s", got, want)
	}
}

// TestEveryLawIsBrokenOnce keeps the bad house complete when a law is added.
func TestEveryLawIsBrokenOnce(t *testing.T) {
	g := load(t, filepath.Join("testdata", "bad"))
	for _, law := range Laws() {
		if len(law.check(g)) == 0 {
			t.Errorf("nothing in testdata/bad breaks the law of %s: %s", strings.Join(law.Of, ", "), law.Why)
		}
	}
}

// TestGoodNeighbour makes sure that what the law allows is not reported.
func TestGoodNeighbour(t *testing.T) {
	for _, finding := range findings(t, load(t, filepath.Join("testdata", "bad"))) {
		if strings.Contains(finding, "agent/desired/good") {
			t.Errorf("a package that keeps the law is reported: %s", finding)
		}
	}
}

func load(t *testing.T, dir string) Graph {
	t.Helper()
	g, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// findings are all breaches as text; a breach against two laws with one reason is told once.
func findings(t *testing.T, g Graph) []string {
	t.Helper()
	used, err := CheckUses(g)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, breach := range Check(g, Laws()) {
		if text := breach.String(); !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return append(all, used...)
}
