package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/weftnet/weftnet/test/testbed/store"
)

// spec is an image before its layers exist.
type spec struct {
	names  []string
	config v1.Config
}

// static makes path hold an archive of images that share one layer of files, over the layer in base if there is one. It is written only
// when the store has none with the same content.
func (m *testbedMaker) static(name, path string, files []File, specs []spec, base string, baseKey ...string) error {
	key, err := archiveKey(files, specs, baseKey)
	if err != nil {
		return err
	}
	entry := name + ".tar"
	if !m.store.Has(key, entry) {
		task := m.display.Start("archive " + entry)
		if err := task.Done(m.write(key, entry, files, specs, base)); err != nil {
			return err
		}
	}
	return m.store.Export(key, entry, path)
}

func (m *testbedMaker) write(key, entry string, files []File, specs []spec, base string) error {
	dir, err := m.store.Scratch()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var layers []v1.Layer
	if base != "" {
		layer, err := newFileLayer(base)
		if err != nil {
			return err
		}
		layers = append(layers, layer)
	}
	layer, err := layerIn(dir, files)
	if err != nil {
		return err
	}
	layers = append(layers, layer)
	var images []Image
	for _, s := range specs {
		s.config.Env = append([]string{searchPath}, s.config.Env...)
		images = append(images, Image{Names: s.names, Config: s.config, Layers: layers})
	}
	file := filepath.Join(dir, entry)
	if err := WriteArchive(file, images); err != nil {
		return err
	}
	return m.store.Put(key, entry, file)
}

// layerIn writes a layer into a folder that must outlive the layer's use.
func layerIn(dir string, files []File) (v1.Layer, error) {
	file := filepath.Join(dir, "layer.tar")
	out, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("create a layer: %w", err)
	}
	if err := errors.Join(writeLayer(out, files), out.Close()); err != nil {
		return nil, err
	}
	return newFileLayer(file)
}

// archiveKey names everything that goes into an archive.
func archiveKey(files []File, specs []spec, base []string) (string, error) {
	parts := append([]string{archiveRecipe}, base...)
	for _, s := range specs {
		parts = append(parts, fmt.Sprintf("%q %q %q %s", s.names, s.config.Entrypoint, s.config.Cmd, s.config.User))
	}
	for _, f := range files {
		content := hex.EncodeToString(f.Content)
		if f.Source != "" {
			hash, err := hashFile(f.Source)
			if err != nil {
				return "", err
			}
			content = hash
		}
		parts = append(parts, fmt.Sprintf("%s %o %q %t %s", f.Path, f.Mode, f.Link, f.Dir, content))
	}
	return store.Key(parts...), nil
}

func hashFile(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("find %s: build the programs first: %w", filepath.Base(file), err)
		}
		return "", fmt.Errorf("open %s: %w", file, err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hash %s: %w", file, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// goBuild builds main packages of this repository: static, without paths of this machine, so that equal sources give equal files.
func goBuild(ctx context.Context, root, out, ldflags string, packages ...string) error {
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", ldflags, "-o", out}, packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", strings.Join(packages, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}
