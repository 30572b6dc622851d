package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// entries reads a tar into memory, in order.
func entries(t *testing.T, r io.Reader) (names []string, contents map[string][]byte, headers map[string]*tar.Header) {
	t.Helper()
	contents, headers = map[string][]byte{}, map[string]*tar.Header{}
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return names, contents, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		contents[h.Name], headers[h.Name] = content, h
	}
}

func layerOf(t *testing.T, files ...File) v1.Layer {
	t.Helper()
	layer, err := layerIn(t.TempDir(), files)
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

func TestLayerDependsOnContentAlone(t *testing.T) {
	source := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(source, []byte("binary"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := []File{{Path: "/usr/bin/tool", Source: source}, {Path: "tool-2", Link: "usr/bin/tool"}, {Path: "/tmp", Dir: true, Mode: 0o1777}}
	var first bytes.Buffer
	if err := writeLayer(&first, files); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(source, later, later); err != nil {
		t.Fatal(err)
	}
	files[0], files[2] = files[2], files[0]
	var second bytes.Buffer
	if err := writeLayer(&second, files); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("order or time changed the layer")
	}
	names, contents, headers := entries(t, &first)
	if got, want := strings.Join(names, " "), "tmp/ tool-2 usr/ usr/bin/ usr/bin/tool"; got != want {
		t.Errorf("entries %q, want %q", got, want)
	}
	if string(contents["usr/bin/tool"]) != "binary" || headers["usr/bin/tool"].Mode != 0o755 || headers["tmp/"].Mode != 0o1777 {
		t.Errorf("tool %q, modes %o %o", contents["usr/bin/tool"], headers["usr/bin/tool"].Mode, headers["tmp/"].Mode)
	}
	if headers["tool-2"].Typeflag != tar.TypeSymlink || headers["tool-2"].Linkname != "usr/bin/tool" {
		t.Errorf("link: %+v", headers["tool-2"])
	}
}

// Every blob is named by its own hash, and the index leads to the layers, as the OCI image layout demands.
func TestArchiveIsAnImageLayout(t *testing.T) {
	base, own := layerOf(t, File{Path: "base", Content: []byte("b")}), layerOf(t, File{Path: "own", Content: []byte("o")})
	images := []Image{
		{Names: []string{"localhost/a:1", "localhost/a:2"}, Config: v1.Config{Entrypoint: []string{"/a"}}, Layers: []v1.Layer{base, own}},
		{Names: []string{"localhost/b:1"}, Config: v1.Config{Cmd: []string{"sh"}}, Layers: []v1.Layer{base}},
	}
	var out bytes.Buffer
	if err := writeArchive(&out, images); err != nil {
		t.Fatal(err)
	}
	names, contents, _ := entries(t, &out)
	if names[0] != "oci-layout" || names[1] != "index.json" {
		t.Errorf("order of entries: %v", names)
	}
	if len(names) != 2+2*2+2 { // two manifests, two configurations, two layers, each once
		t.Errorf("%d entries: %v", len(names), names)
	}
	for name, content := range contents {
		if digest, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
			if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != digest {
				t.Errorf("%s has another hash", name)
			}
		}
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(contents["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 3 {
		t.Fatalf("%d manifests in the index", len(index.Manifests))
	}
	checkManifest(t, contents, index.Manifests[0], "localhost/a:1", 2, "/a")
	checkManifest(t, contents, index.Manifests[1], "localhost/a:2", 2, "/a")
	checkManifest(t, contents, index.Manifests[2], "localhost/b:1", 1, "")
}

func checkManifest(t *testing.T, contents map[string][]byte, d v1.Descriptor, name string, layers int, entrypoint string) {
	t.Helper()
	if d.Annotations["io.containerd.image.name"] != name || d.Platform == nil || d.Platform.OS != "linux" {
		t.Errorf("descriptor %+v, want name %s", d, name)
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(contents["blobs/sha256/"+d.Digest.Hex], &manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest.Layers) != layers {
		t.Errorf("%s: %d layers", name, len(manifest.Layers))
	}
	for _, l := range manifest.Layers {
		if content := contents["blobs/sha256/"+l.Digest.Hex]; int64(len(content)) != l.Size || l.MediaType != "application/vnd.oci.image.layer.v1.tar" {
			t.Errorf("%s: layer %+v, %d bytes", name, l, len(content))
		}
	}
	var config v1.ConfigFile
	if err := json.Unmarshal(contents["blobs/sha256/"+manifest.Config.Digest.Hex], &config); err != nil {
		t.Fatal(err)
	}
	if strings.Join(config.Config.Entrypoint, " ") != entrypoint || len(config.RootFS.DiffIDs) != layers || config.OS != "linux" {
		t.Errorf("%s: configuration %+v", name, config)
	}
	for i, id := range config.RootFS.DiffIDs {
		if id != manifest.Layers[i].Digest { // uncompressed: the two are one
			t.Errorf("%s: diff id %s of layer %s", name, id, manifest.Layers[i].Digest)
		}
	}
}

func TestReadFindsNamesAndDigests(t *testing.T) {
	write := func(content string) []Ref {
		t.Helper()
		file := filepath.Join(t.TempDir(), "images", "x.tar")
		image := Image{Names: []string{"localhost/x:1"}, Layers: []v1.Layer{layerOf(t, File{Path: "f", Content: []byte(content)})}}
		if err := WriteArchive(file, []Image{image}); err != nil {
			t.Fatal(err)
		}
		refs, err := Read(file)
		if err != nil {
			t.Fatal(err)
		}
		return refs
	}
	one, again, other := write("1"), write("1"), write("2")
	if len(one) != 1 || one[0].Name != "localhost/x:1" || one[0] != again[0] || one[0].Digest == other[0].Digest {
		t.Errorf("refs %v %v %v", one, again, other)
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none.tar")); err == nil {
		t.Error("a missing archive was read")
	}
}
