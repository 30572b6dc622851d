//go:build linux

// Package cache keeps the last complete snapshot of the cluster on the node's disk, so that a node
// that reboots while the API server is away finds its peers again. It holds public data only and
// proves nothing: what comes out of it is a partial snapshot.
package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/weftnet/weftnet/agent/durable"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// format is the version of the file's layout. A file of another version is not read.
const format = 1

// maxSize bounds what is read into memory; 5,000 nodes take about 3 MB.
const maxSize = 64 << 20

type file struct {
	Format   int               `json:"format"`
	Snapshot snapshot.Snapshot `json:"snapshot"`
}

// Cache is one file.
type Cache struct {
	Path string
	// Self is this node's name. A file of another node, as on a cloned disk, is refused.
	Self   string
	Writer durable.Writer
}

// Load returns the stored snapshot, marked partial. Without a file the error is fs.ErrNotExist;
// every error means that there is nothing to go by, and none is a reason to stop.
func (c Cache) Load() (snapshot.Snapshot, error) {
	none := snapshot.Snapshot{}
	f, err := os.OpenFile(c.Path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return none, fmt.Errorf("open the peer cache: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return none, fmt.Errorf("examine the peer cache: %w", err)
	}
	// Whoever can write here can point peers elsewhere.
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 {
		return none, fmt.Errorf("peer cache %s: want a file that only its owner may write, got mode %v", c.Path, info.Mode())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize))
	if err != nil {
		return none, fmt.Errorf("read the peer cache: %w", err)
	}
	got, err := decode(data)
	if err != nil {
		return none, fmt.Errorf("peer cache %s: %w", c.Path, err)
	}
	if got.Self != c.Self {
		return none, fmt.Errorf("peer cache %s: belongs to node %q, and this is %q", c.Path, got.Self, c.Self)
	}
	return got, nil
}

func decode(data []byte) (snapshot.Snapshot, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return snapshot.Snapshot{}, fmt.Errorf("is corrupt: %w", err)
	}
	if head.Format != format {
		return snapshot.Snapshot{}, fmt.Errorf("has format %d, and this agent reads %d", head.Format, format)
	}
	var content file
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&content); err != nil {
		return snapshot.Snapshot{}, fmt.Errorf("is corrupt: %w", err)
	}
	content.Snapshot.Partial = true
	return content.Snapshot.Sorted(), nil
}

// Save stores a complete snapshot, readable by its owner only.
func (c Cache) Save(s snapshot.Snapshot) error {
	if s.Partial {
		return errors.New("keep the peer cache: the snapshot is partial")
	}
	data, err := json.Marshal(file{Format: format, Snapshot: s})
	if err != nil {
		return fmt.Errorf("encode the peer cache: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
		return fmt.Errorf("make the directory of the peer cache: %w", err)
	}
	if err := durable.RemoveTemporary(c.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tidy up beside the peer cache: %w", err)
	}
	if err := c.Writer.Replace(c.Path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the peer cache: %w", err)
	}
	return nil
}
