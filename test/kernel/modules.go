package main

import (
	"debug/elf"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// loadOrder lists the files of the wanted modules and of all that they depend on, each after what
// it depends on. It reads what depmod would: the .modinfo section of each module.
func loadOrder(dir string, wanted []string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			files[moduleName(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for modules: %w", err)
	}
	var order []string
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		path, ok := files[name]
		if !ok {
			return fmt.Errorf("this kernel has no module %s", name)
		}
		depends, err := dependencies(path)
		if err != nil {
			return err
		}
		for _, d := range depends {
			if err := add(d); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		order = append(order, path)
		return nil
	}
	for _, name := range wanted {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleName is the kernel's form: file names may have a dash where it has an underscore.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

func dependencies(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	defer func() { _ = f.Close() }()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("read module %s: no .modinfo", path)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	var out []string
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			for name := range strings.SplitSeq(list, ",") {
				out = append(out, moduleName(name))
			}
		}
	}
	return out, nil
}
