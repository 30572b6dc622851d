package request

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestRequestsAreReadAsWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "when needed")
	want := []Request{{Name: "weft0", MTU: 1420}, {Name: "weft1", MTU: 1280}}
	for _, r := range []Request{want[1], {Name: "weft0", MTU: 9000}, want[0], want[0]} {
		if err := Write(dir, r); err != nil {
			t.Fatal(err)
		}
	}
	if got, faults := List(dir); !slices.Equal(got, want) || len(faults) != 0 {
		t.Errorf("got %v, %v", got, faults)
	}
	for range 2 {
		if err := Remove(dir, "weft0"); err != nil {
			t.Error(err)
		}
	}
	if got, _ := List(dir); !slices.Equal(got, want[1:]) {
		t.Errorf("got %v", got)
	}
	info, err := os.Stat(filepath.Join(dir, "weft1.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestOneBadRequestDoesNotStopTheOthers(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"weft0.json": `{"name":"weft0","mtu":1420}`,
		"weft1.json": `{"name":"weft1"`,
		"weft2.json": `{"name":"weft3","mtu":1420}`,
		"weft4.json": `{"name":"weft4","mtu":100}`,
		"eth0.json":  `{"name":"eth0","mtu":1500}`,
		"weft5.conf": `not a request`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, faults := List(dir)
	if !slices.Equal(got, []Request{{Name: "weft0", MTU: 1420}}) {
		t.Errorf("got %v", got)
	}
	var names []string
	for _, err := range faults {
		var f *Fault
		if errors.As(err, &f) {
			names = append(names, f.Name)
		}
	}
	if !slices.Equal(names, []string{"eth0", "weft1", "weft2", "weft4"}) {
		t.Errorf("faults %v", faults)
	}
}

func TestNoRequestsWithoutADirectory(t *testing.T) {
	if got, faults := List(filepath.Join(t.TempDir(), "absent")); len(got)+len(faults) != 0 {
		t.Errorf("got %v, %v", got, faults)
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, r := range []Request{{}, {Name: "../weft0", MTU: 1420}, {Name: "weft0", MTU: 1279}, {Name: "weft0", MTU: 65536}, {Name: "weft0123456789ab", MTU: 1420}} {
		if err := Write(t.TempDir(), r); err == nil {
			t.Errorf("%+v was written", r)
		}
	}
}
