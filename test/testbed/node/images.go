package node

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

const nameAnnotation = "io.containerd.image.name"

// ImageNames lists the names of the images in an OCI archive.
func ImageNames(archive string) ([]string, error) {
	file, err := os.Open(archive)
	if err != nil {
		return nil, fmt.Errorf("open the image archive: %w", err)
	}
	defer file.Close()
	names, err := readNames(file)
	if err != nil {
		return nil, fmt.Errorf("read the image archive %s: %w", archive, err)
	}
	return names, nil
}

func readNames(r io.Reader) ([]string, error) {
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("no index.json: not an OCI archive")
		}
		if err != nil {
			return nil, err
		}
		if header.Name != "index.json" {
			continue
		}
		var index struct {
			Manifests []struct{ Annotations map[string]string }
		}
		if err := json.NewDecoder(archive).Decode(&index); err != nil {
			return nil, fmt.Errorf("parse index.json: %w", err)
		}
		var names []string
		for _, m := range index.Manifests {
			if name := m.Annotations[nameAnnotation]; name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		return names, nil
	}
}

// FindImage is the first full name of an image, without its tag given, in a
// list of archives.
func FindImage(archives []string, name string) (string, error) {
	for _, archive := range archives {
		names, err := ImageNames(archive)
		if err != nil {
			return "", err
		}
		for _, n := range names {
			if strings.HasPrefix(n, name+":") {
				return n, nil
			}
		}
	}
	return "", fmt.Errorf("find the image %s: in none of %d archives", name, len(archives))
}

// Import loads an image archive into a running node.
func Import(ctx context.Context, l layout.Layout, init proc.Process, archive string) error {
	return runCtr(ctx, l, Socket(init), "images", "import", "--snapshotter", "overlayfs", archive)
}

func runCtr(ctx context.Context, l layout.Layout, socket string, args ...string) error {
	args = append([]string{"--address", socket, "--namespace", "k8s.io"}, args...)
	out, err := exec.CommandContext(ctx, l.Path("bin", "ctr"), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run ctr %s: %w: %s", strings.Join(args[4:], " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
