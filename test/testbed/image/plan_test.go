package image

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestParseMirrorTakesTheReleaseItself(t *testing.T) {
	targets := `https://deb.nodesource.com/node_20.x nodistro main
http://mirror.example/debian bookworm main
http://mirror.example/debian bookworm contrib
http://mirror.example/debian bookworm-updates main
http://other.example.org/debian bookworm main
http://mirror.example/debian-security bookworm-security main
`
	m, err := parseMirror(targets, "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	if m.url != "http://mirror.example/debian" || !slices.Equal(m.components, []string{"main", "contrib"}) {
		t.Errorf("mirror %+v", m)
	}
	for _, suite := range []string{"trixie", ""} {
		if m, err := parseMirror(targets, suite); err == nil {
			t.Errorf("release %q: %+v", suite, m)
		}
	}
	if got := codename("ID=debian\nVERSION_CODENAME=bookworm\n"); got != "bookworm" {
		t.Errorf("codename %q", got)
	}
	other := m
	other.suite = "trixie"
	if m.key() == other.key() {
		t.Error("two releases, one key")
	}
}

func TestArchiveKeyNamesContentAndConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	keyOf := func(content, path, name, cmd string, base ...string) string {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		key, err := archiveKey([]File{{Path: path, Source: file}}, []spec{{names: []string{name}, config: v1.Config{Cmd: []string{cmd}}}}, base)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	keys := []string{
		keyOf("1", "/f", "n", "c"), keyOf("2", "/f", "n", "c"), keyOf("1", "/g", "n", "c"),
		keyOf("1", "/f", "m", "c"), keyOf("1", "/f", "n", "d"), keyOf("1", "/f", "n", "c", "base"),
	}
	if keys[0] != keyOf("1", "/f", "n", "c") {
		t.Error("the key is not stable")
	}
	slices.Sort(keys)
	if len(slices.Compact(keys)) != 6 {
		t.Errorf("an input is missing in the key: %v", keys)
	}
	if _, err := archiveKey([]File{{Source: file + "-none"}}, nil, nil); err == nil || !strings.Contains(err.Error(), "build the programs first") {
		t.Errorf("a missing program: %v", err)
	}
}

func TestProductOptions(t *testing.T) {
	o := ProductOptions{}
	if err := o.complete(); err != nil || o.Version != "dev" || !slices.Equal(o.Only, []string{"agent", "operator", "wireguard", "weft"}) {
		t.Errorf("defaults: %+v, %v", o, err)
	}
	bad := ProductOptions{Version: "a b", Only: []string{"agnet"}}
	err := bad.complete()
	if err == nil || !strings.Contains(err.Error(), `"a b"`) || !strings.Contains(err.Error(), "agnet") {
		t.Errorf("both faults must be named: %v", err)
	}
}

func TestProgramsOfAnImage(t *testing.T) {
	var got []string
	for _, p := range programsOf(products[:1]) {
		got = append(got, p.name)
	}
	if !slices.Equal(got, []string{"weftnet-agent", "weftnet-cni", "weft"}) {
		t.Errorf("programs of the agent's image: %v", got)
	}
	for _, p := range products {
		for _, name := range p.programs {
			if !slices.ContainsFunc(programs, func(p program) bool { return p.name == name }) {
				t.Errorf("image %s wants the unknown program %s", p.name, name)
			}
		}
	}
}

func TestMissingSourceIsNamed(t *testing.T) {
	root := t.TempDir()
	err := buildPrograms(t.Context(), root, filepath.Join(root, "bin"), "dev", programs[:1])
	if err == nil || !strings.Contains(err.Error(), "./agent is not there") {
		t.Errorf("error %v", err)
	}
}
