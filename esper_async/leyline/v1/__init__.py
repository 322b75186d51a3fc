"""Generated from proto/esper/leyline/v1 by `esper_async.leyline.generate`."""
