//! Every file in `conf/` is loaded, and each example does what it promises.
