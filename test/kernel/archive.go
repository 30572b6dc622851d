package main

import (
	"fmt"
	"io"
	"os"
	"path"
)

// archive writes the cpio format ("newc") that the kernel unpacks its initial file system from; see
// Documentation/driver-api/early-userspace/buffer-format.rst. It keeps the first error in err.
type archive struct {
	out   io.Writer
	err   error
	inode int
	dirs  map[string]bool // directories, and libraries by absolute path
}

// Types of files, from inode(7).
const (
	typeDir     = 0o040000
	typeChar    = 0o020000
	typeRegular = 0o100000
	typeSymlink = 0o120000
)

func (w *archive) dir(name string) {
	if name == "." || w.dirs[name] {
		return
	}
	w.dir(path.Dir(name))
	w.dirs[name] = true
	w.entry(name, typeDir|0o755, 0, 0, 0, nil)
}

func (w *archive) file(name, source string, mode int) {
	if w.err != nil {
		return
	}
	data, err := os.ReadFile(source)
	if err != nil {
		w.err = err
		return
	}
	w.dir(path.Dir(name))
	w.entry(name, typeRegular|mode, 0, 0, len(data), data)
}

func (w *archive) text(name, text string) {
	w.dir(path.Dir(name))
	w.entry(name, typeRegular|0o644, 0, 0, len(text), []byte(text))
}

func (w *archive) symlink(name, target string) {
	w.dir(path.Dir(name))
	w.entry(name, typeSymlink|0o777, 0, 0, len(target), []byte(target))
}

// console makes the device that init's standard streams are opened on.
func (w *archive) console(name string) {
	w.dir(path.Dir(name))
	w.entry(name, typeChar|0o600, 5, 1, 0, nil)
}

func (w *archive) close() error {
	w.entry("TRAILER!!!", 0, 0, 0, 0, nil)
	return w.err
}

func (w *archive) entry(name string, mode, major, minor, size int, data []byte) {
	if w.err != nil {
		return
	}
	w.inode++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		w.inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0)
	for _, part := range [][]byte{pad([]byte(header + name + "\x00")), pad(data)} {
		if _, err := w.out.Write(part); err != nil {
			w.err = err
			return
		}
	}
}

// pad fills up to a multiple of four bytes.
func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
