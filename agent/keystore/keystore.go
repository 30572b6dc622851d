//go:build linux

// Package keystore keeps the node's WireGuard private keys on its disk. A key is made once, by the
// first start on the node, and never again: a file that is there but cannot be trusted is an error
// for a person to resolve, because a new key would cut the node off from every peer that cannot be
// told of it.
package keystore

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/weftnet/weftnet/agent/durable"
	"github.com/weftnet/weftnet/agent/state"
)

const (
	filePrefix = "key-"
	fileMode   = 0o600
	dirMode    = 0o700
	// maxFileSize is the key in base64 and a newline.
	maxFileSize = 45
)

// Epoch counts the keys of a node; the first is 1.
type Epoch int64

// Key is one private key of the node and its epoch.
type Key struct {
	Epoch   Epoch
	Private state.PrivateKey
}

// FileError says which key file cannot be used, what is wrong with it and what to do.
type FileError struct {
	Path   string
	Fault  string
	Remedy string
	Err    error
}

func (e *FileError) Error() string {
	text := fmt.Sprintf("private key file %s: %s; %s", e.Path, e.Fault, e.Remedy)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap gives the cause, if there is one beside the fault.
func (e *FileError) Unwrap() error { return e.Err }

// Store is the directory that holds the keys.
type Store struct {
	// Dir is made with mode 0700 when it is missing.
	Dir string
	// Random is where keys come from; nil means crypto/rand.
	Random io.Reader
	// Writer writes the files.
	Writer durable.Writer
}

// Ensure returns the node's keys by epoch, the oldest first. Where there is none at all it makes
// the first; created tells so.
func (s Store) Ensure() (keys []Key, created bool, err error) {
	if err := s.prepareDir(); err != nil {
		return nil, false, err
	}
	unlock, err := lockDir(s.Dir)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	keys, err = s.load()
	if err != nil || len(keys) > 0 {
		return keys, false, err
	}
	if err := s.create(1); err != nil {
		return nil, false, err
	}
	keys, err = s.load() // what counts is what the disk says
	return keys, err == nil, err
}

func (s Store) path(e Epoch) string {
	return filepath.Join(s.Dir, filePrefix+strconv.FormatInt(int64(e), 10))
}

func (s Store) prepareDir() error {
	if err := os.MkdirAll(s.Dir, dirMode); err != nil {
		return fmt.Errorf("make the key directory %s: %w", s.Dir, err)
	}
	info, err := os.Lstat(s.Dir)
	if err != nil {
		return fmt.Errorf("look at the key directory %s: %w", s.Dir, err)
	}
	switch {
	case !info.IsDir():
		return &FileError{Path: s.Dir, Fault: "is not a directory but " + kindOf(info.Mode()), Remedy: "put a directory in its place"}
	case ownerOf(info) != os.Geteuid():
		return &FileError{Path: s.Dir, Fault: fmt.Sprintf("the directory belongs to user %d", ownerOf(info)),
			Remedy: fmt.Sprintf("chown it to %d after making sure of what is in it", os.Geteuid())}
	case info.Mode().Perm()&0o022 != 0:
		return &FileError{Path: s.Dir, Fault: fmt.Sprintf("others may write to the directory (mode %04o)", info.Mode().Perm()),
			Remedy: "make sure that nobody has put a key there, then chmod it to 0700"}
	case info.Mode().Perm() != dirMode: // kubelet makes a hostPath with mode 0755
		if err := os.Chmod(s.Dir, dirMode); err != nil {
			return fmt.Errorf("close the key directory %s to others: %w", s.Dir, err)
		}
	}
	return nil
}

// lockDir makes agents that start at once, as during an upgrade, take turns. The lock ends with the
// process, however that ends.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the key directory: %w", err)
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the key directory %s: %w", dir, err), d.Close())
	}
	return func() { _ = d.Close() }, nil
}

func (s Store) load() ([]Key, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil, fmt.Errorf("read the key directory: %w", err)
	}
	var keys []Key
	var errs []error
	for _, entry := range entries {
		number, ok := strings.CutPrefix(entry.Name(), filePrefix)
		if !ok {
			continue
		}
		key, err := readKey(filepath.Join(s.Dir, entry.Name()), number)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		keys = append(keys, key)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	slices.SortFunc(keys, func(a, b Key) int { return int(a.Epoch - b.Epoch) })
	return keys, nil
}

func (s Store) create(epoch Epoch) error {
	path := s.path(epoch)
	if err := durable.RemoveTemporary(path); err != nil {
		return fmt.Errorf("remove what an interrupted start has left: %w", err)
	}
	random := s.Random
	if random == nil {
		random = rand.Reader
	}
	key, err := state.GeneratePrivateKey(random)
	if err != nil {
		return fmt.Errorf("generate a private key: %w", err)
	}
	err = s.Writer.Create(path, []byte(key.RevealText()+"\n"), fileMode)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &FileError{Path: path, Fault: "the disk is full", Remedy: "free some space; the key is made at the next start", Err: err}
	case err != nil:
		return fmt.Errorf("keep the new private key: %w", err)
	}
	return nil
}

const (
	remedyRestore = "restore the file from a backup, or delete it to give the node a new key and restart the agent"
	remedyLeak    = "if nobody else can have read it, chmod it to 0600; otherwise delete it to give the node a new key; then restart the agent"
)

func readKey(path, number string) (Key, error) {
	fail := func(fault, remedy string, err error) (Key, error) {
		return Key{}, &FileError{Path: path, Fault: fault, Remedy: remedy, Err: err}
	}
	epoch, err := strconv.ParseInt(number, 10, 64)
	if err != nil || epoch < 1 || strconv.FormatInt(epoch, 10) != number {
		return fail("the name does not end in the number of a key", "rename it or move it away", nil)
	}
	// O_NONBLOCK: a FIFO in its place must not hang the start.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return fail("is a symbolic link", "put the file itself in its place", nil)
	}
	if err != nil {
		return fail("cannot be read", remedyRestore, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return fail("cannot be examined", remedyRestore, err)
	}
	if fault, remedy := faultOf(info); fault != "" {
		return fail(fault, remedy, nil)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return fail("cannot be read", remedyRestore, err)
	}
	private, err := state.ParsePrivateKey(strings.TrimSuffix(string(text), "\n"))
	if err != nil {
		return fail("is corrupt", remedyRestore, err)
	}
	return Key{Epoch: Epoch(epoch), Private: private}, nil
}

func faultOf(info fs.FileInfo) (fault, remedy string) {
	switch {
	case !info.Mode().IsRegular():
		return "is not a file but " + kindOf(info.Mode()), "put the file itself in its place"
	case ownerOf(info) != os.Geteuid():
		return fmt.Sprintf("belongs to user %d", ownerOf(info)), remedyLeak
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Sprintf("others may read or write it (mode %04o)", info.Mode().Perm()), remedyLeak
	case info.Size() > maxFileSize:
		return fmt.Sprintf("has %d bytes, and a key at most %d", info.Size(), maxFileSize), remedyRestore
	}
	return "", ""
}

func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m.IsRegular():
		return "a file"
	default:
		return "something else (" + m.Type().String() + ")"
	}
}
