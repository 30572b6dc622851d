package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is one entry of a layer: content of Source on this machine, or Content, or a symbolic link to Link, or an empty folder.
type File struct {
	Path    string // in the image
	Source  string
	Content []byte
	Link    string
	Dir     bool
	Mode    int64 // 0: 0755
}

// writeLayer writes an uncompressed layer. Order, times and owners are fixed, so that the digest depends on the content alone.
func writeLayer(w io.Writer, files []File) error {
	files = withParents(files)
	out := tar.NewWriter(w)
	for _, f := range files {
		if err := writeEntry(out, f); err != nil {
			return fmt.Errorf("add %s to the layer: %w", f.Path, err)
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("end the layer: %w", err)
	}
	return nil
}

// withParents sorts the files and adds the folders above them.
func withParents(files []File) []File {
	byPath := map[string]File{}
	for _, f := range files {
		f.Path = strings.TrimPrefix(path.Clean("/"+f.Path), "/")
		byPath[f.Path] = f
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			if _, there := byPath[dir]; !there {
				byPath[dir] = File{Path: dir, Dir: true}
			}
		}
	}
	out := make([]File, 0, len(byPath))
	for _, f := range byPath {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return out
}

func writeEntry(out *tar.Writer, f File) error {
	header := &tar.Header{Name: f.Path, Mode: f.Mode, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	if f.Mode == 0 {
		header.Mode = 0o755
	}
	var content io.Reader = bytes.NewReader(f.Content)
	header.Size = int64(len(f.Content))
	switch {
	case f.Dir:
		header.Typeflag, header.Name = tar.TypeDir, f.Path+"/"
	case f.Link != "":
		header.Typeflag, header.Linkname = tar.TypeSymlink, f.Link
	case f.Source != "":
		source, err := os.Open(f.Source)
		if err != nil {
			return err
		}
		defer source.Close()
		info, err := source.Stat()
		if err != nil {
			return err
		}
		content, header.Size = source, info.Size()
	}
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(out, content)
	return err
}

// fileLayer is an uncompressed layer in a file: importing is quicker without gzip, and nothing travels over a network.
type fileLayer struct {
	path string
	hash v1.Hash
	size int64
}

func newFileLayer(file string) (v1.Layer, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open the layer: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return nil, fmt.Errorf("hash the layer: %w", err)
	}
	return fileLayer{path: file, size: n, hash: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}}, nil
}

func (l fileLayer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l fileLayer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l fileLayer) Size() (int64, error)                 { return l.size, nil }
func (l fileLayer) MediaType() (types.MediaType, error)  { return types.OCIUncompressedLayer, nil }
func (l fileLayer) Compressed() (io.ReadCloser, error)   { return os.Open(l.path) }
func (l fileLayer) Uncompressed() (io.ReadCloser, error) { return os.Open(l.path) }
