package controllers

import (
	_ "github.com/weftnet/weftnet/agent/source"
)
