package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/test/kernel/verdict"
)

func TestOnlyAVerdictPasses(t *testing.T) {
	for _, row := range []struct {
		serial string
		pass   bool
	}{
		{"", false},
		{"PASS\n", false},
		{verdict.Prefix + verdict.Pass + "\r\n[ 5.0] reboot: Power down\r\n", true},
		{verdict.Prefix + "agent.kernel.wg: exit status 1\r\n", false},
		{"Kernel panic - not syncing\r\n", false},
	} {
		if err := watch(strings.NewReader(row.serial), io.Discard, false); (err == nil) != row.pass {
			t.Errorf("%q: %v", row.serial, err)
		}
	}
}

func TestArchiveIsWhatTheKernelUnpacks(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := &archive{out: &out, dirs: map[string]bool{}}
	w.file("a/b", source, 0o755)
	w.symlink("c", "/a")
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if out.Len()%4 != 0 || strings.Count(text, "070701") != 4 {
		t.Errorf("%d bytes, %q", out.Len(), text)
	}
	// The directory comes before what is in it; name and data end on multiples of four bytes.
	file := "a/b\x00" + "\x00\x00" + "hello\x00\x00\x00"
	if dir, inside := strings.Index(text, "a\x00"), strings.Index(text, file); dir < 0 || inside < dir {
		t.Errorf("directory at %d, file at %d in %q", dir, inside, text)
	}
	w = &archive{out: &out, dirs: map[string]bool{}}
	w.file("x", filepath.Join(t.TempDir(), "absent"), 0o600)
	if err := w.close(); err == nil {
		t.Error("a file that is not there was written")
	}
}
