package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	nameAnnotation = "io.containerd.image.name" // what `ctr images import` calls the image
	ociLayout      = `{"imageLayoutVersion":"1.0.0"}`
)

// Image is one image under one or more full names.
type Image struct {
	Names  []string
	Config v1.Config
	Layers []v1.Layer
}

// Ref is an image in an archive.
type Ref struct {
	Name   string
	Digest v1.Hash
}

func (i Image) assemble() (v1.Image, error) {
	adds := make([]mutate.Addendum, 0, len(i.Layers))
	for _, l := range i.Layers {
		adds = append(adds, mutate.Addendum{Layer: l, MediaType: types.OCIUncompressedLayer})
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(base, adds...)
	if err != nil {
		return nil, fmt.Errorf("append layers: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the image configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config = "linux", runtime.GOARCH, i.Config
	config.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	return mutate.ConfigFile(img, config)
}

// WriteArchive writes the images into one archive; layers that they share are there once. The index comes first, so that Read is quick.
func WriteArchive(file string, images []Image) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("make the folder of the archive: %w", err)
	}
	temp := fmt.Sprintf("%s.new-%d", file, os.Getpid())
	out, err := os.Create(temp)
	if err != nil {
		return fmt.Errorf("create the archive: %w", err)
	}
	defer os.Remove(temp)
	err = errors.Join(writeArchive(out, images), out.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(file), err)
	}
	if err := os.Rename(temp, file); err != nil {
		return fmt.Errorf("put the archive in place: %w", err)
	}
	return nil
}

func writeArchive(w io.Writer, images []Image) error {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	var blobs []blob
	for _, i := range images {
		img, err := i.assemble()
		if err != nil {
			return err
		}
		descriptor, parts, err := partsOf(img)
		if err != nil {
			return err
		}
		for _, name := range i.Names {
			d := *descriptor.DeepCopy()
			d.Annotations = map[string]string{nameAnnotation: name}
			index.Manifests = append(index.Manifests, d)
		}
		blobs = append(blobs, parts...)
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	err = errors.Join(addBytes(out, "oci-layout", []byte(ociLayout)), addBytes(out, "index.json", raw), addBlobs(out, blobs))
	return errors.Join(err, out.Close())
}

type blob struct {
	hash v1.Hash
	size int64
	open func() (io.ReadCloser, error)
}

func bytesBlob(hash v1.Hash, content []byte) blob {
	return blob{hash, int64(len(content)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }}
}

// partsOf returns the descriptor of an image's manifest, and the blobs: manifest, configuration, layers.
func partsOf(img v1.Image) (v1.Descriptor, []blob, error) {
	manifest, err := img.RawManifest()
	digest, err2 := img.Digest()
	config, err3 := img.RawConfigFile()
	configName, err4 := img.ConfigName()
	layers, err5 := img.Layers()
	if err := errors.Join(err, err2, err3, err4, err5); err != nil {
		return v1.Descriptor{}, nil, fmt.Errorf("describe the image: %w", err)
	}
	blobs := []blob{bytesBlob(digest, manifest), bytesBlob(configName, config)}
	for _, l := range layers {
		hash, err := l.Digest()
		size, err2 := l.Size()
		if err := errors.Join(err, err2); err != nil {
			return v1.Descriptor{}, nil, fmt.Errorf("describe a layer: %w", err)
		}
		blobs = append(blobs, blob{hash, size, l.Compressed})
	}
	return v1.Descriptor{
		MediaType: types.OCIManifestSchema1, Digest: digest, Size: int64(len(manifest)),
		Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
	}, blobs, nil
}

func addBlobs(out *tar.Writer, blobs []blob) error {
	written := map[v1.Hash]bool{}
	for _, b := range blobs {
		if written[b.hash] {
			continue
		}
		written[b.hash] = true
		content, err := b.open()
		if err != nil {
			return err
		}
		err = errors.Join(add(out, "blobs/"+b.hash.Algorithm+"/"+b.hash.Hex, b.size, content), content.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

func addBytes(out *tar.Writer, name string, content []byte) error {
	return add(out, name, int64(len(content)), bytes.NewReader(content))
}

func add(out *tar.Writer, name string, size int64, content io.Reader) error {
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err := io.Copy(out, content)
	return err
}

// Read returns what is in an archive, by name and digest, so that a loader can tell whether a node has it already.
func Read(file string) ([]Ref, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open the archive: %w", err)
	}
	defer f.Close()
	in := tar.NewReader(f)
	for {
		header, err := in.Next()
		if err != nil {
			return nil, fmt.Errorf("find index.json in %s: %w", filepath.Base(file), err)
		}
		if header.Name != "index.json" {
			continue
		}
		var index v1.IndexManifest
		if err := json.NewDecoder(in).Decode(&index); err != nil {
			return nil, fmt.Errorf("parse index.json of %s: %w", filepath.Base(file), err)
		}
		refs := make([]Ref, 0, len(index.Manifests))
		for _, m := range index.Manifests {
			refs = append(refs, Ref{Name: m.Annotations[nameAnnotation], Digest: m.Digest})
		}
		return refs, nil
	}
}
